"""What running a model will take, said before anything is downloaded: memory, speed, and the command to type."""
