// What loan(), send() and call() share: entering, taking slots, the copy into one, one's own loans.
#pragma once

#include "source.hpp"

namespace psyne::python {

/// Enters the end for one call, as a member of its channel; false with an exception set.
bool enter_joined(PyObject* self, SenderEnd& e);
/// What the core has to know of a message whose elements have so many bytes: where slots may be too short for it.
uint64_t bytes_for(const SenderEnd& e, const Kind& kind, uint64_t elements);
/// Takes `n` slots if there is room; `bytes`: see bytes_for(). False without room, or with an exception set.
bool take_now(SenderEnd& e, uint64_t n, Loan& loan, uint64_t bytes = 0);
/// Waits for `n` slots; false with an exception set. Without room and time: Full.
bool take_loan(SenderEnd& e, uint64_t n, Loan& loan, uint64_t deadline, uint64_t bytes = 0);
Place place_of(const Kind& kind, const Loan& loan);

/// A message in a slot that is not published yet.
struct Copied {
    const Kind* kind = nullptr;
    Loan loan;
    uint64_t bytes = 0;
};
/// Copies one message into a slot; false with an exception set. `try_only` without room: false without one.
bool copy_in(SenderEnd& e, PyObject* what, uint64_t deadline, bool try_only, Copied& c);

/// `what` as an open loan (or a scratch one) of this end, if it is that; borrowed.
MessageObject* own_loan(PyObject* self, PyObject* what);

PyObject* call(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* names);

}  // namespace psyne::python
