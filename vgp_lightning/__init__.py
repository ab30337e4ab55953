"""From offline episodes to a planner that acts."""
