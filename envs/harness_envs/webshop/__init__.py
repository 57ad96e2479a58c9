"""WebShop: shopping in a simulated store, by text, without Java and without a server."""
