"""What: linear operators on pytrees."""
