"""The artifact store: where workers of a study share checkpoints, generators and pictures."""
