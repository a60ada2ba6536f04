/* Does nothing, to measure the cost of starting a container. */
int main(void) { return 0; }
