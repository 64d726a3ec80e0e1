"""What the dock and the Processing algorithms share. No widgets, no iface."""
