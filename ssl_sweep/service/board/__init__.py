"""The board: the service's web pages. Its changes go through the same endpoints as the client's."""
