"""What host tests, the kill loop, the demo and the benches share."""
