"""The Linux data plane: nftables, links, sockets, and the packets that an agent has to know."""
