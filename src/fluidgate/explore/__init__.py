"""A local page on which settings are moved and their consequences follow: `fluidgate explore`."""
