"""The gate from outside in routers that exist: one module for each, which needs that router's own package."""
