// Messages and batches: cheap objects over one slot or a run of slots, and the leases that keep them.
//
//   message ──▶ end ──▶ mapping            the message itself holds the slot while no view exists
//   message ──▶ lease ◀── array ◀── slice  with views the lease does; the last one gone gives the slot back
#pragma once

#include "layout.hpp"

namespace psyne::python {

struct SenderEnd;
struct ReceiverEnd;

/// What must be told when slots are no longer used.
struct Hold {
    enum class Kind : uint8_t { nothing, loan, sent, taken, passed, scratch };
    Kind kind = Kind::nothing;
    Receiver* receiver = nullptr;  // that took it
    union {
        Loan loan;
        Taken taken;
    };
    Hold() : loan() {}
};

struct LeaseObject {
    PyObject_HEAD
    PyObject* end;      // keeps the mapping; null for private memory
    std::byte* memory;  // private memory of its own
    uint64_t generation;
    Hold hold;  // kind nothing while its message is responsible
};

struct MessageObject {
    PyObject_HEAD
    Layout* layout;  // lives as long as the type
    std::byte* data;
    uint64_t count;   // messages; 1 for a single one
    uint64_t stride;
    PyObject* end;
    LeaseObject* lease;  // null until the first view
    PyObject* views;     // list of the writable arrays given out: they turn read-only
    uint64_t generation;
    bool open;      // may be used
    bool writable;  // a loan, a private message, or one of a mutating stage
    bool batch;
    bool touched;
    Hold hold;
};

extern PyTypeObject* message_type;
extern PyTypeObject* batch_type;
extern PyTypeObject* lease_type;

/// A message of `type` (a class made by the metaclass) without any memory yet. Null with an exception set.
MessageObject* new_message(PyTypeObject* type, Layout* layout);
MessageObject* new_batch(PyTypeObject* type, Layout* layout);
/// Fills in private, zeroed memory. False with an exception set.
bool make_private(MessageObject* m);
/// Ends a message: a loan is sent, a taken one is passed on. False with an exception set.
bool finish_message(MessageObject* m, uint64_t send_count);
/// Ends without sending.
bool discard_message(MessageObject* m);
/// Gives up a message that was never filled.
void drop_empty(MessageObject* m);
bool is_message(PyObject* o);
/// False with MessageReleased set.
bool usable(MessageObject* m);

}  // namespace psyne::python
