"""Feature networks and scores, cost, and the closed-form oracle."""
