#ifndef POGO_VERSION_H
#define POGO_VERSION_H

#define POGO_VERSION "0.1.0"

#endif
