
set edit:completion:arg-completer[nexusctl] = { |@words|
    var index = (count $words)
    set index = (- $index 1)

    put (env _CLAP_IFS="\n" _CLAP_COMPLETE_INDEX=(to-string $index) NEXUSCTL_COMPLETE="elvish" nexusctl -- $@words) | to-lines
}

