"""Thin servicers over the services, and the one authorization interceptor."""
