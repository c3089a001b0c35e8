// The manual page and shell completion, made from the tables that the program itself uses.
#ifndef POGO_CLI_MANUAL_H
#define POGO_CLI_MANUAL_H

#include <stdio.h>

void manual_print(FILE *out);     // pogo.1
void completion_print(FILE *out); // for bash

#endif
