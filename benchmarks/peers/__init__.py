"""What the trainers are compared with: TRL, and the shortest loops with the same work."""
