// What users reach through a message: arrays over its bytes, which keep its slot.
#pragma once

#include "ends.hpp"

namespace psyne::python {

/// Before the first byte of a mutating stage: if it dies from now on, the message is half changed.
void about_to_write(MessageObject* m);
/// An array over a part of the message: of all its messages if it is a batch. The same one while the first lives.
PyObject* view_of(MessageObject* m, PyArray_Descr* descr, const Dims& dims, bool fortran, std::byte* data, uint64_t step);
/// One number or text of this dtype as Python has it.
PyObject* scalar(PyArray_Descr* descr, const std::byte* data);

PyObject* field_view(MessageObject* m, FieldObject* f);
int store(MessageObject* m, FieldObject* f, PyObject* value);

}  // namespace psyne::python
