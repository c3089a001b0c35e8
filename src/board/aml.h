// ACPI machine language, as far as the board's tables need it. ACPI 6.4 chapter 20.
//
// Terms are written in the order in which they stand in the byte code: operator, then its operands. What has a package length is a
// pair aml_begin_...() and aml_end(); the length, and for buffers the size, is put in front when the end is known.
#ifndef POGO_BOARD_AML_H
#define POGO_BOARD_AML_H

#include "board/blob.h"

#define AML_MAX_DEPTH 12

struct aml {
    struct blob out;
    unsigned depth;
    struct {
        size_t at;   // where the length goes
        bool buffer; // a buffer size follows it, and an end tag the contents
    } open[AML_MAX_DEPTH];
    bool bad; // unbalanced, or a name that is none
};

enum aml_op {
    AML_ZERO = 0x00,
    AML_ONE = 0x01,
    AML_NAME = 0x08,
    AML_LOCAL0 = 0x60,
    AML_ARG0 = 0x68,
    AML_STORE = 0x70,
    AML_SHIFT_LEFT = 0x79,
    AML_AND = 0x7b,
    AML_OR = 0x7d,
    AML_FIND_SET_RIGHT_BIT = 0x82,
    AML_DECREMENT = 0x76,
    AML_CREATE_WORD_FIELD = 0x8b,
    AML_RETURN = 0xa4,
};

// --- terms ---------------------------------------------------------------------------------------------------------------

void aml_op(struct aml *a, enum aml_op op);
// A path: segments of up to four characters (padded with '_'), separated by dots, after an optional '\' or carets.
void aml_path(struct aml *a, const char *path);
void aml_int(struct aml *a, u64 val);
void aml_string(struct aml *a, const char *s);
// Name (path, ...): the object follows, or is the integer, string or compressed EISA ID ("PNP0A03").
void aml_name(struct aml *a, const char *path);
void aml_name_int(struct aml *a, const char *path, u64 val);
void aml_name_string(struct aml *a, const char *path, const char *s);
void aml_name_eisa(struct aml *a, const char *path, const char *id);

void aml_begin_scope(struct aml *a, const char *path);
void aml_begin_device(struct aml *a, const char *path);
void aml_begin_method(struct aml *a, const char *path, unsigned args, bool serialized);
void aml_begin_if(struct aml *a); // the predicate follows, then the body
void aml_begin_package(struct aml *a, unsigned elements);
void aml_end(struct aml *a);

// OperationRegion in PCI configuration space, and a field of bytes over it: names follow (aml_field), then aml_end().
void aml_pci_region(struct aml *a, const char *path, u64 off, u64 len);
void aml_begin_byte_field(struct aml *a, const char *region);
void aml_field(struct aml *a, const char *name, unsigned bits);

// --- resource templates ---------------------------------------------------------------------------------------------------
// ACPI 6.4 chapter 6.4. A buffer; closed by aml_end(), which adds the end tag.

void aml_begin_resources(struct aml *a);
void aml_res_io(struct aml *a, u16 base, u8 len);
void aml_res_irq(struct aml *a, u16 mask);           // edge-triggered, active high
void aml_res_irq_level_low(struct aml *a, u16 mask); // level-triggered, active low, shared
void aml_res_memory32(struct aml *a, u32 base, u32 len);
void aml_res_bus_numbers(struct aml *a, u16 first, u16 last);
// Ranges that a bridge passes on: first to last.
void aml_res_io_window(struct aml *a, u16 first, u16 last);
void aml_res_memory_window(struct aml *a, u32 first, u32 last, bool cacheable);
void aml_res_memory64_window(struct aml *a, u64 first, u64 last);

#endif
