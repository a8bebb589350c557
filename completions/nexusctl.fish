complete --keep-order --exclusive --command nexusctl --arguments "(NEXUSCTL_COMPLETE=fish nexusctl -- (commandline --current-process --tokenize --cut-at-cursor) (commandline --current-token))"
