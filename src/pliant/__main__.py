"""`python -m pliant`, for launchers that want a module: `torchrun --nproc-per-node 4 -m pliant train RECIPE.yaml`."""

from pliant.cli.main import main

if __name__ == "__main__":
    main()
