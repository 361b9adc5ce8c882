"""The studies behind the documentation: the gate, the papers, the quality of plans, a measured server."""
