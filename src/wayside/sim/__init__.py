"""A deterministic world: the unchanged machines of core, over clocks, links and kernels made up."""
