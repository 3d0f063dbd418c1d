"""`wsdan serve`: a checkpoint behind an HTTP API and a web page. Needs the extra `serve`."""
