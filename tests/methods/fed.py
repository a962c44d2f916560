"""Optimizers that ask for a closure, under laws that bring gradients."""


def fed(kind):
    """Return a kind of optimizer that takes a step from the gradients that are there, at any weights."""

    class Fed(kind):
        def step(self, closure=None):
            if closure is not None:
                return super().step(closure)
            given = [(p, p.grad) for group in self.param_groups for p in group["params"]]

            def again():
                for p, grad in given:
                    p.grad = grad
                return 0.0

            super().step(again)
            return None

    # Pickled by its name.
    Fed.__qualname__ = Fed.__name__ = f"Fed{kind.__name__}"
    globals()[Fed.__name__] = Fed
    return Fed
