"""The functions behind the commands, with typed results. `detrcli` exports them."""
