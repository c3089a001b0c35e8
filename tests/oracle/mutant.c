#include "oracle/oracle.h"
const struct orc_mutant orc_mutants[1];
const unsigned orc_mutant_count = 0;
