"""The Processing algorithms: they declare parameters and delegate to core."""
