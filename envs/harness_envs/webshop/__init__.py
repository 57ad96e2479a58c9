"""WebShop: shopping in a simulated store, by text, without Java and without a server."""

from harness_envs.webshop.env import WebShopEnv

__all__ = ["WebShopEnv"]
