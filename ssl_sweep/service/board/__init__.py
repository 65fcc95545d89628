"""The board: web pages of the service for people; what they change goes through the same endpoints as the client."""
