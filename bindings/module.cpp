#define PSYNE_IMPORTS_NUMPY
#include "python.hpp"

namespace psyne::python {
static int load_numpy() {
    import_array1(-1);
    return 0;
}
}  // namespace psyne::python

NB_MODULE(_native, m) {
    using namespace psyne::python;
#ifdef NDEBUG
    nb::set_leak_warnings(false);  // classes in modules outlive the check at exit
#endif
    if (load_numpy() < 0) throw nb::python_error();
    nb::register_exception_translator([](const std::exception_ptr& p, void*) {
        try {
            std::rethrow_exception(p);
        } catch (const psyne::Error&) {
            raise_current();
        }
    });
    m.doc() = "The native core of psyne: ends, messages, layouts.";
    m.attr("LAYOUT_VERSION") = psyne::kLayoutVersion;
    bind_layout(m);
    bind_message(m);
    bind_dlpack(m);
    bind_private(m);
    bind_region(m);
    bind_allocator(m);
    bind_sender(m);
    bind_after(m);
    bind_call(m);
    bind_receiver(m);
    bind_runs(m);
    bind_tap(m);
    bind_opening(m);
    bind_statistics(m);
    bind_inspect(m);
    bind_waiting(m);
    bind_network(m);
}
