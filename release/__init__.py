"""What a release consists of: distributions, the commands that build, try and check them."""
