"""What the method's parts bring: studies of rows, each trained with several seeds."""
