/* What a container costs that does nothing. */
int main(void) { return 0; }
