// Channels as files of one directory: ipc://.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include <psyne/storage.hpp>

namespace psyne {

/// The directory that holds the channels of one user.
class Directory final : public Names {
public:
    explicit Directory(std::string where)
        : path(std::move(where)), fd(std::make_shared<const sys::Fd>(sys::open_directory(path))) {}
    const std::string path;
    const std::shared_ptr<const sys::Fd> fd;

    /// Files of one generation of a channel start with this.
    static std::string prefix(const std::string& name, uint64_t generation) {
        char hex[17];
        std::snprintf(hex, sizeof hex, "%016llx", static_cast<unsigned long long>(generation));
        return name + "." + hex + ".";
    }
    static std::string file_name(const std::string& name, uint64_t generation) {
        return prefix(name, generation) + "channel";
    }

    std::string address(const std::string& name) const override { return "ipc://" + name; }

    std::vector<uint64_t> generations(const std::string& name) const override {
        std::vector<uint64_t> found;
        const size_t size = file_name(name, 0).size();
        for (const std::string& entry : sys::list(*fd)) {
            if (entry.size() != size || entry.compare(0, name.size() + 1, name + ".") != 0) continue;
            const uint64_t generation = std::strtoull(entry.c_str() + name.size() + 1, nullptr, 16);
            if (entry == file_name(name, generation)) found.push_back(generation);
        }
        std::sort(found.begin(), found.end());
        return found;
    }

    OpenedFile make(const std::string& name, uint64_t generation, uint64_t bytes) const override {
        return {sys::make_unnamed(*fd, bytes, bytes), bytes, "", storage(name, generation)};
    }
    bool publish(const OpenedFile& file, const std::string& name, uint64_t generation) const override {
        return sys::publish(*fd, file.fd, file_name(name, generation));
    }
    OpenedFile open(const std::string& name, uint64_t generation) const override {
        const std::string file = file_name(name, generation);
        OpenedFile o{sys::open_file(*fd, file, true), 0, path + "/" + file, storage(name, generation)};
        if (o.fd) o.bytes = sys::checked_size(o.fd, o.path);
        return o;
    }
    FifoPlace fifos(const std::string& name) const override { return {fd, name + "."}; }
    void watch(uint64_t ns) const override { sys::Watch(path).wait(ns); }

    StoragePtr storage(const std::string& name, uint64_t generation) const {
        return std::make_shared<const Files>(address(name), fd, prefix(name, generation));
    }

    /// The files of one generation. Others' generations have other names.
    class Files final : public Storage {
    public:
        Files(std::string where, std::shared_ptr<const sys::Fd> directory, std::string start)
            : Storage(std::move(where)), directory_(std::move(directory)), prefix_(std::move(start)) {}

        Block make(const SlabPlace& place, Part part, uint64_t bytes, uint64_t reserved) const override {
            return {sys::make_unnamed(*directory_, bytes, reserved), 0, bytes, name(place, part)};
        }
        void reserve(const SlabPlace& place, Part part, uint64_t at, uint64_t bytes) const override {
            const sys::Fd file = sys::open_file(*directory_, name(place, part), true);
            if (!file) fail(Errc::incompatible, name(place, part) + " was removed; close the ends of this channel");
            sys::reserve(file, at, bytes);
        }
        bool publish(const Block& block) const override { return sys::publish(*directory_, block.file, block.name); }
        Block open(const SlabPlace& place, Part part, bool writable) const override {
            Block block{sys::open_file(*directory_, name(place, part), writable), 0, 0, name(place, part)};
            if (block) block.bytes = sys::checked_size(block.file, block.name);
            return block;
        }
        void remove(const SlabPlace& place) const noexcept override {
            for (const Part part : {Part::slab, Part::acks, Part::extents}) sys::unlink_file(*directory_, name(place, part));
        }
        void remove_lane(uint64_t join) const noexcept override {
            try {
                const std::string start = prefix_ + std::to_string(join) + ".";
                for (const std::string& entry : sys::list(*directory_))
                    if (entry.compare(0, start.size(), start) == 0 && entry != start + "wake") sys::unlink_file(*directory_, entry);
            } catch (const Error&) {  // whoever removes the channel does it
            }
        }
        FifoPlace fifos() const override { return {directory_, prefix_}; }
        void remove_all() const override {  // the channel file last
            for (const std::string& entry : sys::list(*directory_))
                if (entry.compare(0, prefix_.size(), prefix_) == 0 && entry != prefix_ + "channel")
                    sys::unlink_file(*directory_, entry);
            sys::unlink_file(*directory_, prefix_ + "channel");
        }
        std::string name(const SlabPlace& place, Part part) const {
            static constexpr const char* kParts[] = {".slab", ".acks", ".extents"};
            return prefix_ + std::to_string(place.join) + "." + std::to_string(place.number) + kParts[static_cast<uint64_t>(part)];
        }

    private:
        std::shared_ptr<const sys::Fd> directory_;
        std::string prefix_;
    };
};

}  // namespace psyne
