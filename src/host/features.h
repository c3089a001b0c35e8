// What the host processor can execute, in terms of the guest's feature set.
#ifndef POGO_HOST_FEATURES_H
#define POGO_HOST_FEATURES_H

#include "isa/insn.h"

#define HOST_FEATURE_WORDS ((ISA_FEAT_COUNT + 63) / 64)

// Fill the bit set (bit n: enum isa_feature n) with what CPUID reports; AVX and what builds on it only when the operating
// system keeps that state (XCR0).
void host_features(u64 features[HOST_FEATURE_WORDS]);

#endif
