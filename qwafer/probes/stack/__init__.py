"""What the installed compiler stack can and cannot do: one probe for each fact that the engine leans on."""
