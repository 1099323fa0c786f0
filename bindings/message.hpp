// Messages and batches: cheap objects over one slot or a run of slots, and the leases that keep them.
//
//   message ──▶ end ──▶ mapping            the message itself holds the slot while no view exists
//   message ──▶ lease ◀── array ◀── slice  with views the lease does; the last one gone gives the slot back
#pragma once

#include "layout.hpp"

namespace psyne::python {

struct SenderEnd;
struct ReceiverEnd;

/// Where a run of messages lies.
struct Place {
    std::byte* data = nullptr;  // columns: slot 0 of the ring; else the first message
    uint64_t stride = 0;        // bytes from one message to the next
    uint64_t ring = 1;          // columns: slots of a column
    uint64_t slot = 0;          // columns: the first of ours
    uint64_t room = 0;          // bytes that each message may use: its dimensions lie at the end of them

    /// Of one field: its first byte, and how far apart two messages have it.
    std::byte* field(const Layout& layout, uint64_t offset, uint64_t bytes) const noexcept {
        return layout.columns ? data + ring * offset + slot * bytes : data + offset;
    }
    uint64_t step(const Layout& layout, uint64_t bytes) const noexcept { return layout.columns ? bytes : stride; }
    Place part(const Layout& layout, uint64_t i) const noexcept {
        return layout.columns ? Place{data, stride, ring, slot + i, room} : Place{data + i * stride, stride, ring, slot, room};
    }
};

/// What a tap tells of the private messages that it copied.
struct Sighting {
    uint64_t sequence, sender, missed;          // of the first
    const uint64_t *dropped, *stamps, *remote;  // of each, in the memory of the messages
};

/// What must be told when slots are no longer used.
struct Hold {
    // called: by call(), for reading. copied: by a tap. held: ended by release(after=), taken until its event is done.
    // failed: then its work had failed
    enum class Kind : uint8_t { nothing, loan, sent, called, taken, passed, held, failed, scratch, copied };
    Kind kind = Kind::nothing;
    Receiver* receiver = nullptr;  // that took it
    union {
        Loan loan;
        Taken taken;
        Sighting copied;  // holds nothing
    };
    Hold() : loan() {}
};

/// A loan that Python has ended, and that is published later.
struct HeldBack {
    Loan loan;
    uint64_t dropped = 0;  // messages before it, which it tells of
};

struct LeaseObject {
    PyObject_HEAD
    PyObject* end;       // keeps the mapping; null for memory that is no slot
    const Slab* slab;    // of its slot; null for memory that is no slot
    std::byte* memory;   // private memory of its own
    sys::Mapping pages;  // copy-on-write pages of its own
    PyObject* keeps;     // what its memory is of: the slot's lease, a buffer
    uint64_t generation;
    Hold hold;  // kind nothing while its message is responsible
};

struct MessageObject {
    PyObject_HEAD
    Layout* layout;  // lives as long as the type
    Place at;
    uint64_t count;    // messages; 1 for a single one
    PyObject* end;
    PyObject* parent;  // the message that this one is a part of
    PyObject* type;    // of a batch: the class of its messages
    LeaseObject* lease;  // null until the first view
    PyObject* views;     // list of the writable arrays given out: they turn read-only
    PyObject* pin;       // an array for those who hold the message itself instead of a view
    uint64_t generation;
    bool open;      // may be used
    bool writable;  // a loan, a private message, or one of a mutating stage
    bool batch;
    bool touched;
    MessageObject *before, *behind;  // in the list of what its receiver holds
    Hold hold;
};

extern PyTypeObject* message_type;
extern PyTypeObject* batch_type;
extern PyTypeObject* lease_type;

/// A message of `type` (a class made by the metaclass) without any memory yet. Null with an exception set.
MessageObject* new_message(PyTypeObject* type, Layout* layout);
MessageObject* new_batch(PyTypeObject* batch, PyObject* type, Layout* layout);
/// Makes an empty message one of another class.
void retype(MessageObject* m, PyObject* type, Layout* layout);
/// A part of `whole` (a nested record, one message of a batch): usable as long as that is.
PyObject* new_part(MessageObject* whole, PyTypeObject* type, Layout* layout, const Place& at);
/// The message that holds the slot of a part.
inline MessageObject* root(MessageObject* m) noexcept {
    while (m->parent) m = reinterpret_cast<MessageObject*>(m->parent);
    return m;
}
/// Dimensions of a single message. False with PeerCorrupted set.
inline bool dims_of(const MessageObject* m, Dims& out) {
    if (m->layout->shaped) return m->layout->read_dims(m->at.data, m->at.room, out);
    out = m->layout->dims;
    return true;
}
/// Bytes of a message where it lies.
inline uint64_t bytes_of(const MessageObject* m) noexcept { return m->layout->shaped ? m->at.room : m->layout->bytes; }
/// shape= or size= of a shaped message, checked against the most that it may have. False with an exception set.
bool shape_from(PyObject* shape, const Layout& layout, Dims& out);
/// Copies one message into other memory of the same layout. False with an exception set.
bool copy_message(const Layout& layout, const Place& from, const Place& to);
/// The layout of a message class. Null with an exception set.
Layout* layout_of(PyTypeObject* type);
/// A lease without any memory yet. Null with an exception set.
LeaseObject* new_lease(PyObject* end, uint64_t generation);
/// The lease that views of this message keep; made at the first view. Borrowed; null with an exception set.
LeaseObject* lease_of(MessageObject* m);
/// The lease that an array is a view of, through slices and memoryviews; null for other arrays. Borrowed.
LeaseObject* lease_under(PyObject* o);
/// All of a message or batch as an array, which keeps the lease. Null with an exception set.
PyObject* whole_array(MessageObject* m);
/// Fills in private, zeroed memory. False with an exception set.
bool make_private(MessageObject* m);
/// Arrays of the user (not those that only the message knows) that still use the bytes?
bool views_live(const MessageObject* m);
void message_dealloc(PyObject* o);
void lease_dealloc(PyObject* o);
/// Ends a message: a loan is sent, or held back where that is asked for; a taken one is passed on. False with an exception
/// set.
bool finish_message(MessageObject* m, uint64_t send_count, HeldBack* back = nullptr);
/// Ends without sending.
bool discard_message(MessageObject* m);
/// Ends a taken message for Python, but where its stage writes not for the others. Its lease; null with an exception set.
nb::object hold_message(MessageObject* m);
/// Gives up a message that was never filled.
void drop_empty(MessageObject* m);
/// Puts a message that was taken into its receiver's list, and out of it when it is responsible no longer.
void link_taken(MessageObject* m);
void unlink_taken(MessageObject* m);
/// Gives back to their stage the messages that a receiver holds, but those that the user keeps arrays of or has begun to
/// change; how many were given back.
uint64_t give_back_held(ReceiverEnd& e);
bool is_message(PyObject* o);
/// False with MessageReleased set.
bool usable(MessageObject* m);

}  // namespace psyne::python
