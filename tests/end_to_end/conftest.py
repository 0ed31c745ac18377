import experiments.sweep  # noqa: F401 — says where Hydra finds the sweeper
