// Opening ends, looking at channels, waiting for one to appear.

#include "ends.hpp"

namespace psyne::python {

namespace {

DirectoryPtr directory_of(const std::string& path) { return std::make_shared<const Directory>(path); }

Spinner::Mode mode_of(const std::string& wait) {
    if (wait == "spin") return Spinner::Mode::spin;
    return wait == "block" ? Spinner::Mode::block : Spinner::Mode::adaptive;
}

/// `file` says how large its messages are: another size than the type's would lead out of the slots.
void give_type(End& e, const ChannelFile& file, nb::object type, nb::object layout, nb::object batch_type) {
    const uint64_t bytes = nb::inst_ptr<Layout>(layout)->bytes;
    if (file.shape.payload_bytes != bytes)
        fail(Errc::incompatible, e.address + " says that its messages have " + std::to_string(file.shape.payload_bytes) +
                                     " bytes, its type has " + std::to_string(bytes) + "; the channel file is damaged");
    e.shape = nb::inst_ptr<Layout>(layout);
    e.layout = std::move(layout);
    e.type = std::move(type);
    e.batch_type = std::move(batch_type);
}

/// [(name, after mask, mutates, redelivers), …]
std::vector<StageSpec> stages_from(nb::list list) {
    std::vector<StageSpec> stages;
    for (nb::handle h : list) {
        nb::tuple t = nb::cast<nb::tuple>(h);
        stages.push_back({nb::cast<std::string>(t[0]), nb::cast<uint32_t>(t[1]), nb::cast<bool>(t[2]), nb::cast<bool>(t[3])});
    }
    return stages;
}

nb::object describe(const std::string& path, const std::string& name) {
    check_name(name);
    const auto found = find_channel(directory_of(path), name);
    if (!found) return nb::none();
    nb::dict d;
    nb::list stages;
    for (uint32_t i = 0; i < found->shape.stage_count; ++i) {
        const StageRecord& s = found->stage(i);
        stages.append(nb::make_tuple(load_name(s.name), s.after, s.mutates != 0, s.redelivers != 0));
    }
    d["schema"] = found->schema();
    d["pattern"] = static_cast<uint32_t>(found->shape.pattern);
    d["stages"] = stages;
    return d;
}

void open_sending(nb::object self, const std::string& path, const std::string& name, const std::string& schema,
                  uint32_t pattern, nb::list stages, uint64_t capacity, uint64_t align, bool drops,
                  const std::string& wait, const std::string& program, nb::object type, nb::object layout,
                  nb::object batch_type) {
    SenderEnd& e = sender_end(self.ptr());
    const Layout& shape = *nb::inst_ptr<Layout>(layout);
    const uint64_t stride = payload_stride(shape.bytes, shape.alignment, align);
    if (capacity == 0) capacity = default_capacity(stride);
    e.address = "ipc://" + name;
    e.drops = drops;
    e.sender = open_sender(directory_of(path), name,
                           {schema, shape.bytes, static_cast<Pattern>(pattern), stages_from(stages)},
                           {stride, rounded_capacity(capacity, stride), drops, mode_of(wait)}, program);
    remember_end(&e.sender->registry);
    if (!tell_burials(e.sender->registry)) throw nb::python_error();
    give_type(e, e.sender->registry.file, std::move(type), std::move(layout), std::move(batch_type));
}

bool open_receiving(nb::object self, const std::string& path, const std::string& name, const std::string& stage,
                    const std::string& wait, const std::string& program, bool follow) {
    ReceiverEnd& e = receiver_end(self.ptr());
    e.address = "ipc://" + name;
    e.follow = follow;
    if (e.receiver) return true;
    e.receiver = open_receiver(directory_of(path), name, stage, mode_of(wait), program);
    if (!e.receiver) return false;
    e.receiver->follow = follow;
    remember_end(&e.receiver->registry);
    if (!tell_burials(e.receiver->registry)) throw nb::python_error();
    return true;
}

/// Waits until something changes in the directory, at most 100 ms and not beyond the deadline; false at the deadline.
bool watch(const std::string& path, uint64_t deadline) {
    const uint64_t now = sys::now_ns();
    if (now >= deadline) return false;
    {
        nb::gil_scoped_release nogil;
        sys::Watch(path).wait(std::min(kSlice, deadline - now));
    }
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    return true;
}

nb::dict counters(const Registry& r) {
    const ChannelHeader& h = r.file.header();
    nb::dict d;
    d["late_wakes"] = h.late_wakes.load(relaxed);
    d["redelivered"] = h.redelivered.load(relaxed);
    d["poisoned"] = h.poisoned.load(relaxed);
    d["dropped"] = h.dropped.load(relaxed);
    d["fences_needed"] = h.fences_needed.load(relaxed);
    return d;
}

nb::object counters_of(nb::object end) {
    if (nb::isinstance<SenderEnd>(end)) {
        const SenderEnd& e = sender_end(end.ptr());
        return e.sender ? nb::object(counters(e.sender->registry)) : nb::none();
    }
    const ReceiverEnd& e = receiver_end(end.ptr());
    return e.receiver ? nb::object(counters(e.receiver->registry)) : nb::none();
}

}  // namespace

void bind_opening(nb::module_& m) {
    m.def("describe", describe, nb::arg("directory"), nb::arg("name"),
          "Schema, pattern and stages of an open channel, or None.",
          nb::sig("def describe(directory: str, name: str) -> dict[str, typing.Any] | None"));
    m.def("open_sender", open_sending, nb::arg("end"), nb::arg("directory"), nb::arg("name"), nb::arg("schema"),
          nb::arg("pattern"), nb::arg("stages"), nb::arg("capacity"), nb::arg("align"), nb::arg("drops"),
          nb::arg("wait"), nb::arg("program"), nb::arg("type"), nb::arg("layout"), nb::arg("batch_type"),
          nb::sig("def open_sender(end: object, directory: str, name: str, schema: str, pattern: int, "
                  "stages: list[tuple[str, int, bool, bool]], capacity: int, align: int, drops: bool, wait: str, "
                  "program: str, type: object, layout: Layout, batch_type: object) -> None"));
    m.def("open_receiver", open_receiving, nb::arg("end"), nb::arg("directory"), nb::arg("name"), nb::arg("stage"),
          nb::arg("wait"), nb::arg("program"), nb::arg("follow"), "Join a channel; False when there is none.");
    m.def("give_type", [](nb::object end, nb::object type, nb::object layout, nb::object batch) {
              ReceiverEnd& e = receiver_end(end.ptr());
              give_type(e, e.receiver->registry.file, std::move(type), std::move(layout), std::move(batch));
          }, nb::arg("end"), nb::arg("type"), nb::arg("layout"), nb::arg("batch_type"));
    m.def("leave", [](nb::object end) {  // a receiver that does not fit the channel that it found
              ReceiverEnd& e = receiver_end(end.ptr());
              if (!e.receiver) return;
              e.receiver->close();
              forget_end(&e.receiver->registry);
              leave(e.receiver->registry);
              e.receiver.reset();
          }, nb::arg("end"));
    m.def("schema", [](nb::object end) {
              const ReceiverEnd& e = receiver_end(end.ptr());
              return e.receiver ? e.receiver->registry.file.schema() : std::string();
          }, nb::arg("end"), "The schema text of the channel that a receiver has joined.");
    m.def("watch", watch, nb::arg("directory"), nb::arg("deadline"));
    m.def("counters", counters_of, nb::arg("end"), nb::sig("def counters(end: object) -> dict[str, int] | None"));
    m.def("now_ns", &sys::now_ns, "The monotonic clock of deadlines.");
}

}  // namespace psyne::python
