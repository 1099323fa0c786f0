// Opening ends, looking at channels, waiting for one to appear.

#include "ends.hpp"

namespace psyne::python {

NamesPtr names_of(nb::handle place) {
    if (!nb::isinstance<nb::str>(place) || nb::len(place) == 0)
        fifo_directory().set(nb::cast<std::string>(nb::module_::import_("psyne.address").attr("channel_directory")()));
    if (nb::isinstance<nb::int_>(place)) {
        const sys::Fd fd(::fcntl(nb::cast<int>(place), F_DUPFD_CLOEXEC, 0));
        if (!fd) sys::fail_errno("the descriptor of this channel is not open");
        return std::make_shared<const Anonymous>(fd);
    }
    const auto path = nb::cast<std::string>(place);
    if (path.empty()) return process_names();
    return std::make_shared<const Directory>(path);
}

nb::object shared_text(const std::string& bytes) {
    PyObject* text = text_of(bytes);
    if (!text) throw nb::python_error();
    return nb::steal(text);
}

namespace {

constexpr uint64_t kStampsFrom = 4096;  // bytes of a message from which its sender keeps the time by itself
constexpr uint64_t kFirstRoom = 4096;     // of a ring that grows: bytes of its first slots, where messages differ,
constexpr uint64_t kFirstBytes = 256 << 10;  // and of all of them

Spinner::Mode mode_of(const std::string& wait) {
    if (wait == "spin") return Spinner::Mode::spin;
    return wait == "block" ? Spinner::Mode::block : Spinner::Mode::adaptive;
}

/// [(class, layout, header), …] by type number.
void set_types(End& e, nb::list types, nb::object batch_type) {
    std::vector<Kind> kinds;
    for (nb::handle h : types) {
        nb::tuple t = nb::cast<nb::tuple>(h);
        kinds.push_back({t[0], t[1], nb::inst_ptr<Layout>(t[1]), nb::cast<uint64_t>(t[2])});
    }
    if (kinds.empty()) throw nb::value_error("an end needs a type");
    e.kinds = std::move(kinds);
    e.batch_type = std::move(batch_type);
}

/// Bytes and alignment that fit messages of all types.
std::pair<uint64_t, uint64_t> largest(nb::list types) {
    uint64_t bytes = 0, alignment = 1;
    for (nb::handle h : types) {
        const Layout& shape = *nb::inst_ptr<Layout>(nb::cast<nb::tuple>(h)[1]);
        bytes = std::max(bytes, shape.bytes);
        alignment = std::max(alignment, shape.alignment);
    }
    return {bytes, alignment};
}

/// The ring of a sender: its first, of one that grows.
SenderOptions ring_for(nb::list types, uint64_t capacity, uint64_t align, bool grows) {
    auto [bytes, alignment] = largest(types);
    alignment = std::max(alignment, align);
    SenderOptions ring;
    ring.alignment = alignment;
    ring.columns.variants = types.size() > 1;
    if (grows && bytes > kFirstRoom + 64) {  // slots for short messages; longer ones have extents at first
        uint64_t least = kFirstRoom, most = 0;
        for (nb::handle h : types) {
            const Layout& shape = *nb::inst_ptr<Layout>(nb::cast<nb::tuple>(h)[1]);
            (shape.shaped ? most : least) = std::max(shape.shaped ? most : least, shape.bytes);
        }
        ring.columns.extents = most > least;
        if (ring.columns.extents) ring.room = bytes = round_up(least, 64);
    }
    ring.stride = payload_stride(bytes, alignment, align);
    if (capacity == 0) capacity = grows ? std::clamp<uint64_t>(kFirstBytes / ring.stride, 8, 4096) : default_capacity(ring.stride);
    ring.capacity = rounded_capacity(capacity, ring.stride);
    return ring;
}

/// `file` says how large its messages are: another size than that of its types would lead out of the slots.
void give_types(End& e, const ChannelFile& file, nb::list types, nb::object batch_type) {
    const uint64_t bytes = largest(types).first;
    if (file.shape.payload_bytes != bytes)
        fail(Errc::incompatible, e.address + " says that its messages have " + std::to_string(file.shape.payload_bytes) +
                                     " bytes, its types have " + std::to_string(bytes) + "; the channel file is damaged");
    if (e.prepared) return;  // the same: a call that is under way may have them in its hand
    set_types(e, std::move(types), std::move(batch_type));
}

/// (budget, shrink_after in nanoseconds)
Growth growth_from(nb::handle h) {
    const auto t = nb::cast<nb::tuple>(h);
    return {nb::cast<uint64_t>(t[0]), nb::cast<uint64_t>(t[1])};
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

nb::object describe(nb::object place, const std::string& name) {
    check_name(name);
    const auto found = find_channel(names_of(place), name);
    if (!found) return nb::none();
    nb::dict d;
    nb::list stages;
    for (uint32_t i = 0; i < found->shape.stage_count; ++i) {
        const StageRecord& s = found->stage(i);
        stages.append(nb::make_tuple(shared_text(load_name(s.name)), s.after.load(relaxed), s.mutates.load(relaxed) != 0,
                                     s.redelivers.load(relaxed) != 0));
    }
    d["schema"] = shared_text(found->schema());
    d["pattern"] = static_cast<uint32_t>(found->shape.pattern);
    d["stages"] = stages;
    return d;
}

void open_sending(nb::object self, nb::object place, const std::string& name, const std::string& schema,
                  uint32_t pattern, nb::list stages, uint64_t capacity, uint64_t align, bool drops, nb::object growth, nb::object stamps,
                  const std::string& wait, const std::string& program, nb::list types, nb::object batch_type, bool remote) {
    SenderEnd& e = sender_end(self.ptr());
    const uint64_t bytes = largest(types).first;
    SenderOptions ring = ring_for(types, capacity, align, !growth.is_none());
    // A clock costs more than the rest of a small send.
    ring.columns.stamps = stamps.is_none() ? bytes >= kStampsFrom : nb::cast<bool>(stamps);
    ring.columns.remote = remote;
    ring.columns.dropped = drops;
    ring.wait = mode_of(wait);
    if (!growth.is_none()) ring.growth = growth_from(growth);
    const NamesPtr names = names_of(place);
    e.address = names->address(name);
    e.drops = drops;
    e.budget = ring.growth.budget;
    e.sender = open_sender(names, name, {schema, bytes, static_cast<Pattern>(pattern), stages_from(stages)}, ring, program);
    e.has_joined();
    remember_end(&e.sender->registry);
    if (!tell_burials(e.sender->registry)) throw nb::python_error();
    give_types(e, e.sender->registry.file, std::move(types), std::move(batch_type));
}

/// Where an end looks for its channel.
template <class E>
NamesPtr look_at(E& e, nb::handle place, const std::string& name, bool follow) {
    e.names = names_of(place);
    e.address = e.names->address(name);
    e.channel = name;
    e.follow = follow;
    return e.names;
}

/// An end that has just joined its channel.
template <class E>
void begin(E& e) {
    auto& core = *core_of(e);
    core.follow = e.follow;
    e.has_joined();
    remember_end(&core.registry);
    try {
        joined(e);
        if (!tell_burials(core.registry)) throw nb::python_error();
    } catch (...) {  // Ctrl-C, perhaps: without its types it must not be used
        leave_channel(e);
        throw;
    }
}

/// (after or None for all, mutates, redelivers)
Graph::Wanted wanted_from(const std::string& name, nb::handle h) {
    nb::tuple t = nb::cast<nb::tuple>(h);
    Graph::Wanted wanted{name, {}, t[0].is_none(), nb::cast<bool>(t[1]), nb::cast<bool>(t[2])};
    if (!wanted.at_the_end)
        for (nb::handle after : nb::cast<nb::list>(t[0])) wanted.after.push_back(nb::cast<std::string>(after));
    return wanted;
}

bool open_receiving(nb::object self, nb::object place, const std::string& name, const std::string& stage,
                    nb::object added, const std::string& wait, const std::string& program, bool follow, bool oldest_first) {
    ReceiverEnd& e = receiver_end(self.ptr());
    const NamesPtr names = look_at(e, place, name, follow);
    if (e.receiver) return true;
    const Graph::Wanted wanted = added.is_none() ? Graph::Wanted{} : wanted_from(stage, added);
    e.receiver = open_receiver(names, name, {stage, added.is_none() ? nullptr : &wanted}, mode_of(wait), program);
    if (!e.receiver) return false;
    e.receiver->oldest_first = oldest_first;
    begin(e);
    return true;
}

bool open_tapping(nb::object self, nb::object place, const std::string& name, bool latest, uint64_t history,
                  const std::string& wait, const std::string& program, bool follow) {
    TapEnd& e = tap_end(self.ptr());
    const NamesPtr names = look_at(e, place, name, follow);
    if (e.tap) return true;
    e.tap = open_tap(names, name, {latest, history, e.late, mode_of(wait)}, program);
    e.late = true;
    if (!e.tap) return false;
    begin(e);
    return true;
}

/// Waits until channels come or go, at most 100 ms and not beyond the deadline; false at the deadline.
bool watch(nb::object place, uint64_t deadline) {
    const uint64_t now = sys::now_ns();
    if (now >= deadline) return false;
    {
        const NamesPtr names = names_of(place);
        const WithoutGil nogil;
        names->watch(std::min(kSlice, deadline - now));
    }
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    return true;
}

/// What an end of an anonymous channel is called, its types and the capacity that it will have, before it joins.
void prepare(nb::object end, const std::string& name, nb::list types, nb::object batch_type, uint64_t capacity,
             uint64_t align, nb::object growth) {
    const bool sends = nb::isinstance<SenderEnd>(end);
    End& e = sends ? static_cast<End&>(sender_end(end.ptr())) : receiver_end(end.ptr());
    e.address = Anonymous().address(name);
    const uint64_t planned = ring_for(types, capacity, align, !growth.is_none()).capacity;
    set_types(e, std::move(types), std::move(batch_type));
    e.prepared = true;
    if (!sends) return;
    sender_end(end.ptr()).planned = planned;
    if (!growth.is_none()) sender_end(end.ptr()).budget = growth_from(growth).budget;
}

int make_channel(const std::string& schema, uint64_t payload_bytes, uint32_t pattern, nb::list stages) {
    const sys::Fd fd = make_anonymous({schema, payload_bytes, static_cast<Pattern>(pattern), stages_from(stages)});
    const int given = ::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0);
    if (given < 0) sys::fail_errno("no descriptor for this channel");
    return given;
}

/// Messages of an anonymous channel that no receiver has taken; looks without joining.
uint64_t unread(nb::object place) {
    auto found = find_channel(names_of(place), "0");
    return found ? Registry(std::move(*found), "").unread() : 0;
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
    const auto of = [](auto& e) { return core_of(e) ? nb::object(counters(core_of(e)->registry)) : nb::none(); };
    return nb::isinstance<SenderEnd>(end) ? of(sender_end(end.ptr())) : with_reader(end, of);
}

template <class E>
bool leave_core(E& e) {
    auto* core = core_of(e);
    if (!core) return false;
    left(e);
    core->close();
    forget_end(&core->registry);
    leave(core->registry);
    e.joined = false;
    return true;
}

}  // namespace

void leave_channel(ReceiverEnd& e) {
    if (leave_core(e)) e.receiver.reset();
}
void leave_channel(TapEnd& e) {
    if (leave_core(e)) e.tap.reset();
}

void bind_opening(nb::module_& m) {
    m.def("describe", describe, nb::arg("place"), nb::arg("name"),
          "Schema, pattern and stages of an open channel, or None.",
          nb::sig("def describe(place: str | int, name: str) -> dict[str, typing.Any] | None"));
    m.def("open_sender", open_sending, nb::arg("end").lock(), nb::arg("place"), nb::arg("name"), nb::arg("schema"),
          nb::arg("pattern"), nb::arg("stages"), nb::arg("capacity"), nb::arg("align"), nb::arg("drops"),
          nb::arg("growth").none(), nb::arg("stamps").none(), nb::arg("wait"), nb::arg("program"), nb::arg("types"), nb::arg("batch_type"),
          nb::arg("remote") = false,
          nb::sig("def open_sender(end: object, place: str | int, name: str, schema: str, pattern: int, "
                  "stages: list[tuple[str, int, bool, bool]], capacity: int, align: int, drops: bool, "
                  "growth: tuple[int, int] | None, stamps: bool | None, wait: str, program: str, types: list[tuple[type, Layout, int]], "
                  "batch_type: object, remote: bool = False) -> None"));
    m.def("open_receiver", open_receiving, nb::arg("end").lock(), nb::arg("place"), nb::arg("name"), nb::arg("stage"),
          nb::arg("added").none(), nb::arg("wait"), nb::arg("program"), nb::arg("follow"), nb::arg("oldest_first"), "Join a channel; False when there is none.",
          nb::sig("def open_receiver(end: object, place: str | int, name: str, stage: str, "
                  "added: tuple[list[str] | None, bool, bool] | None, wait: str, program: str, follow: bool, "
                  "oldest_first: bool) -> bool"));
    m.def("open_tap", open_tapping, nb::arg("end").lock(), nb::arg("place"), nb::arg("name"), nb::arg("latest"),
          nb::arg("history"), nb::arg("wait"), nb::arg("program"), nb::arg("follow"),
          "Join a channel to look on; False when there is none.",
          nb::sig("def open_tap(end: object, place: str | int, name: str, latest: bool, history: int, wait: str, "
                  "program: str, follow: bool) -> bool"));
    m.def("give_types", [](nb::object end, nb::list types, nb::object batch) {
              with_reader(end, [&](auto& e) { give_types(e, core_of(e)->registry.file, std::move(types), std::move(batch)); });
          }, nb::arg("end").lock(), nb::arg("types"), nb::arg("batch_type"),
          nb::sig("def give_types(end: object, types: list[tuple[type, Layout, int]], batch_type: object) -> None"));
    m.def("leave", [](nb::object end) { with_reader(end, [](auto& e) { leave_channel(e); }); }, nb::arg("end").lock());
    m.def("schema", [](nb::object end) {
              return with_reader(end, [](auto& e) { return shared_text(core_of(e) ? core_of(e)->registry.file.schema() : ""); });
          }, nb::arg("end").lock(), nb::sig("def schema(end: object) -> str"),
          "The schema text of the channel that an end has joined.");
    m.def("watch", watch, nb::arg("place"), nb::arg("deadline"),
          nb::sig("def watch(place: str | int, deadline: int) -> bool"));
    m.def("make_channel", make_channel, nb::arg("schema"), nb::arg("payload_bytes"), nb::arg("pattern"),
          nb::arg("stages"), "Make an anonymous channel: a descriptor of its memory, for the caller to close.",
          nb::sig("def make_channel(schema: str, payload_bytes: int, pattern: int, "
                  "stages: list[tuple[str, int, bool, bool]]) -> int"));
    m.def("prepare", prepare, nb::arg("end").lock(), nb::arg("name"), nb::arg("types"), nb::arg("batch_type"),
          nb::arg("capacity"), nb::arg("align"), nb::arg("growth").none(),
          "Name an end of an anonymous channel that has not joined yet, and give it its types.",
          nb::sig("def prepare(end: object, name: str, types: list[tuple[type, Layout, int]], batch_type: object, "
                  "capacity: int, align: int, growth: tuple[int, int] | None) -> None"));
    m.def("unread", unread, nb::arg("place"), "Messages that no receiver of an anonymous channel has taken yet.",
          nb::sig("def unread(place: int) -> int"));
    m.def("counters", counters_of, nb::arg("end").lock(), nb::sig("def counters(end: object) -> dict[str, int] | None"));
    m.def("now_ns", &sys::now_ns, "The monotonic clock of deadlines.");
}

}  // namespace psyne::python
