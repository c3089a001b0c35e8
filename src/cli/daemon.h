// Going into the background, and the file with the process's number.
#ifndef POGO_CLI_DAEMON_H
#define POGO_CLI_DAEMON_H

#include "pogo/error.h"

// Go on in a child without a terminal. The calling process waits until the child is set up, or has failed, and then exits with a status
// that tells which. Returns in the child; or a negative errno with *err set.
int daemon_fork(struct error *err);
// In the child: everything is set up; let the parent go, and standard streams with it. Does nothing without daemon_fork().
void daemon_ready(void);
// Write the process's number to `path`, locked for as long as the process lives. Returns 0 or a negative errno with *err set.
int pidfile_create(const char *path, struct error *err);
void pidfile_remove(const char *path);

#endif
