/* The least that a program can do: what `nexusctl --version` is held against. */
int main(void) { return 0; }
