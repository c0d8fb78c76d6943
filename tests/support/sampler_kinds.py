"""What is stated of every sampler: its order of convergence, or that it draws noise."""

ORDERS = {"ddim": 1, "euler": 1, "heun": 2, "dpm_2": 2, "dpmpp_2m": 2, "unipc": 3, "lms": 4}
STOCHASTIC = ("ddpm", "euler_a", "dpmpp_2m_sde", "dpmpp_sde", "lcm")
