"""libvirt: its own protocol spoken natively, and the AMP endpoint for controllers."""
