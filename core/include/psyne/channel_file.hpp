// The channel file: made whole, found by name and generation, checked before anything in it is believed.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <psyne/storage.hpp>

namespace psyne {

struct StageSpec {
    std::string name;
    uint32_t after = 0;  // a bit per stage directly before
    bool mutates = false;
    bool redelivers = false;
};

/// What the first sender fixes for all.
struct ChannelSpec {
    std::string schema;
    uint64_t payload_bytes = 0;
    Pattern pattern = Pattern::mpsc;
    std::vector<StageSpec> stages;
};

inline void store_name(SharedName& to, const std::string& name) noexcept {
    char bytes[kNameBytes] = {};
    std::memcpy(bytes, name.data(), std::min<size_t>(name.size(), kNameBytes - 1));
    for (size_t i = 0; i < kNameBytes / 8; ++i) {
        uint64_t w;
        std::memcpy(&w, bytes + 8 * i, 8);
        to.words[i].store(w, relaxed);
    }
}
inline std::string load_name(const SharedName& from) {
    char bytes[kNameBytes + 1] = {};
    for (size_t i = 0; i < kNameBytes / 8; ++i) {
        const uint64_t w = from.words[i].load(relaxed);
        std::memcpy(bytes + 8 * i, &w, 8);
    }
    return bytes;
}

class ChannelFile {
public:
    ChannelShape shape{};  // private copy, checked

    ChannelHeader& header() const noexcept { return *reinterpret_cast<ChannelHeader*>(map_.data()); }
    MemberRecord& member(uint64_t id) const noexcept {
        return reinterpret_cast<MemberRecord*>(map_.data() + kMembersOffset)[id];
    }
    StageRecord& stage(uint64_t i) const noexcept {
        return reinterpret_cast<StageRecord*>(map_.data() + kStagesOffset)[i];
    }
    LaneRecord& lane(uint64_t i) const noexcept {
        return reinterpret_cast<LaneRecord*>(map_.data() + kLanesOffset)[i];
    }
    MemberRecord& sender_of(uint64_t lane) const noexcept { return member(kMaxReceivers + lane); }
    const sys::Fd& fd() const noexcept { return file_.fd; }
    const Storage& storage() const noexcept { return *file_.storage; }
    const StoragePtr& shared_storage() const noexcept { return file_.storage; }
    const std::string& address() const noexcept { return file_.storage->address; }
    /// In a forked child: the life locks belong to the parent.
    void forget_locks() noexcept { file_.fd.reset(); }
    std::string schema() const {
        return {reinterpret_cast<const char*>(map_.data() + shape.schema_offset), shape.schema_bytes};
    }
    explicit operator bool() const noexcept { return static_cast<bool>(map_); }

    /// A channel file that nobody finds yet, complete but PROPOSED.
    static ChannelFile make(const Names& names, const std::string& name, const ChannelSpec& spec, uint64_t generation) {
        const uint64_t bytes = round_up(kSchemaOffset + spec.schema.size(), 4096);
        ChannelFile c(names.make(name, generation, bytes));
        c.map_ = sys::map(c.fd(), bytes, true, sys::Populate::yes);
        c.shape = {kChannelMagic,  kLayoutVersion, kAbi, bytes, generation, spec.payload_bytes, kSchemaOffset,
                   spec.schema.size(), static_cast<uint32_t>(spec.stages.size()), spec.pattern};
        c.header().shape = c.shape;
        std::memcpy(c.map_.data() + kSchemaOffset, spec.schema.data(), spec.schema.size());
        for (uint32_t i = 0; i < spec.stages.size(); ++i) {
            StageRecord& s = c.stage(i);
            store_name(s.name, spec.stages[i].name);
            uint32_t ancestors = spec.stages[i].after;
            for (uint32_t k = 0; k < i; ++k)  // stages stand behind those they come after
                if (spec.stages[i].after >> k & 1) ancestors |= c.stage(k).ancestors.load(relaxed);
            s.after.store(spec.stages[i].after, relaxed);
            s.ancestors.store(ancestors, relaxed);
            s.mutates.store(spec.stages[i].mutates, relaxed);
            s.redelivers.store(spec.stages[i].redelivers, relaxed);
        }
        return c;
    }

    /// Gives the file its name; false when that generation exists.
    bool publish(const Names& names, const std::string& name) const {
        return names.publish(file_, name, shape.generation);
    }

    /// Opens one generation; an empty file object when it is gone. Throws Errc::incompatible.
    static ChannelFile open(const Names& names, const std::string& name, uint64_t generation) {
        ChannelFile c(names.open(name, generation));
        if (!c.fd()) return c;
        const std::string& path = c.file_.path;
        const uint64_t bytes = c.file_.bytes;
        if (bytes < kSchemaOffset) incompatible(path, "is " + std::to_string(bytes) + " bytes short of a channel");
        if (!sys::read_at(c.fd(), &c.shape, sizeof c.shape, 0)) incompatible(path, "cannot be read");
        const ChannelShape& s = c.shape;
        if (s.magic != kChannelMagic) incompatible(path, "is not a channel (foreign first bytes, or another byte order)");
        if (s.version != kLayoutVersion || s.abi != kAbi)
            incompatible(path, "has layout version " + std::to_string(s.version) + ", this psyne has " +
                                   std::to_string(kLayoutVersion) + " (abi " + std::to_string(s.abi) + ", here " +
                                   std::to_string(kAbi) + ")");
        if (s.file_bytes != bytes || s.generation != generation || s.schema_offset != kSchemaOffset ||
            s.schema_bytes > bytes - kSchemaOffset || s.stage_count > kMaxStages || s.pattern > Pattern::mpmc)
            incompatible(path, "says sizes that do not fit its " + std::to_string(bytes) + " bytes");
        c.map_ = sys::map(c.fd(), bytes, true, sys::Populate::yes);  // only what is ours is written to
        return c;
    }

private:
    explicit ChannelFile(OpenedFile file) : file_(std::move(file)) {}
    OpenedFile file_;
    sys::Mapping map_;

    [[noreturn]] static void incompatible(const std::string& path, const std::string& why) {
        fail(Errc::incompatible, path + " " + why + "; close its programs and remove the file, or use another name");
    }
};

}  // namespace psyne
