// What send() and call() share: entering, the copy into a slot, one's own loans.
#pragma once

#include "source.hpp"

namespace psyne::python {

/// Enters the end for one call, as a member of its channel; false with an exception set.
bool enter_joined(PyObject* self, SenderEnd& e);
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
