"""Global test settings: hypothesis profiles (HYPOTHESIS_PROFILE=long runs more examples), one thread, no network."""

import os

import torch
from hypothesis import HealthCheck, Phase, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
torch.set_num_threads(1)

checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("default", max_examples=20, deadline=None, suppress_health_check=checks)
settings.register_profile("long", max_examples=500, deadline=None, suppress_health_check=checks)
settings.register_profile(
    "mutation", max_examples=10, deadline=None, suppress_health_check=checks, phases=[Phase.explicit, Phase.generate]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
