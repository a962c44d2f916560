from hypothesis import HealthCheck, settings

settings.register_profile(
    "regions", derandomize=True, deadline=None, max_examples=20, suppress_health_check=list(HealthCheck), database=None
)
settings.load_profile("regions")
