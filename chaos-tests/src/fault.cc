// A disk in memory that can lose power: RocksDB's FaultInjectionTestEnv over RocksDB's own memory Env.
//
// FaultInjectionTestEnv is taken rather than the newer FaultInjectionTestFS because that one, in 11.8.1, divides by
// zero when it drops a random part and does not write the surviving prefix back.
#include <map>
#include <string>
#include <vector>

#include "rocksdb/c.h"
#include "rocksdb/env.h"
#include "util/random.h"
#include "utilities/fault_injection_env.h"

using ROCKSDB_NAMESPACE::Env;
using ROCKSDB_NAMESPACE::EnvOptions;
using ROCKSDB_NAMESPACE::FaultInjectionTestEnv;
using ROCKSDB_NAMESPACE::NewMemEnv;
using ROCKSDB_NAMESPACE::Random;
using ROCKSDB_NAMESPACE::ReadFileToString;
using ROCKSDB_NAMESPACE::Status;
using ROCKSDB_NAMESPACE::WritableFile;
using ROCKSDB_NAMESPACE::WritableFileWrapper;
using ROCKSDB_NAMESPACE::WriteStringToFile;

namespace {

// A base of its own, named first, so that the memory outlives the Env that writes into it.
struct Platters {
  std::unique_ptr<Env> memory{NewMemEnv(Env::Default())};
};

// A file that says it is synced and is not.
class LyingFile final : public WritableFileWrapper {
 public:
  explicit LyingFile(std::unique_ptr<WritableFile> file) : WritableFileWrapper(file.get()), file_(std::move(file)) {}
  Status Sync() override { return Status::OK(); }
  Status Fsync() override { return Status::OK(); }

 private:
  std::unique_ptr<WritableFile> file_;
};

class SimulatedDisk final : private Platters, public FaultInjectionTestEnv {
 public:
  SimulatedDisk() : FaultInjectionTestEnv(memory.get()) {}

  // From here on new write-ahead logs are never synced, whatever is answered.
  void Lie() { lying_ = true; }

  Status NewWritableFile(const std::string& name, std::unique_ptr<WritableFile>* file,
                         const EnvOptions& options) override {
    Status made = FaultInjectionTestEnv::NewWritableFile(name, file, options);
    bool is_log = name.size() > 4 && name.compare(name.size() - 4, 4, ".log") == 0;
    if (made.ok() && lying_ && is_log) {
      file->reset(new LyingFile(std::move(*file)));
    }
    return made;
  }

 private:
  bool lying_ = false;
};

SimulatedDisk* disk_of(void* disk) { return static_cast<SimulatedDisk*>(disk); }

}  // namespace

extern "C" {

// The layout behind the opaque handle of rocksdb/c.h (db/c.cc); rocksdb_env_destroy deletes both.
struct rocksdb_env_t {
  Env* rep;
  bool is_default;
};

void* chaos_disk_new() { return new SimulatedDisk(); }

rocksdb_env_t* chaos_disk_env(void* disk) { return new rocksdb_env_t{disk_of(disk), false}; }

void chaos_disk_lie(void* disk) { disk_of(disk)->Lie(); }

// From here on nothing reaches the platters.
void chaos_disk_freeze(void* disk) { disk_of(disk)->SetFilesystemActive(false); }

// The machine lost power and has it again: what was not synced is gone, wholly or from a random point on.
int chaos_disk_power_loss(void* disk, uint32_t seed, int torn) {
  SimulatedDisk* env = disk_of(disk);
  Status dropped;
  if (torn) {
    // Zero is the one seed this generator cannot leave.
    Random random((seed & 0x7fffffff) | 1);
    dropped = env->DropRandomUnsyncedFileData(&random);
  } else {
    dropped = env->DropUnsyncedFileData();
  }
  // A listed file may be gone already, and files that survive are a legal outcome of a power loss.
  env->DeleteFilesCreatedAfterLastDirSync().PermitUncheckedError();
  env->ResetState();
  env->SetFilesystemActive(true);
  return dropped.ok() ? 0 : 1;
}

// All files of a folder, as they are: for a machine that is put back to an earlier day.
struct chaos_copy {
  std::map<std::string, std::string> files;
};

chaos_copy* chaos_disk_copy(void* disk, const char* folder) {
  auto* copy = new chaos_copy;
  std::vector<std::string> names;
  // No folder, no files.
  disk_of(disk)->GetChildren(folder, &names).PermitUncheckedError();
  for (const std::string& name : names) {
    std::string path = std::string(folder) + "/" + name;
    std::string bytes;
    if (name != "." && name != ".." && ReadFileToString(disk_of(disk), path, &bytes).ok()) {
      copy->files[path] = bytes;
    }
  }
  return copy;
}

// Replaces what is in the folder; without a copy the folder is emptied.
int chaos_disk_restore(void* disk, const char* folder, const chaos_copy* copy) {
  std::vector<std::string> names;
  disk_of(disk)->GetChildren(folder, &names).PermitUncheckedError();
  for (const std::string& name : names) {
    disk_of(disk)->DeleteFile(std::string(folder) + "/" + name).PermitUncheckedError();
  }
  disk_of(disk)->ResetState();
  if (copy != nullptr) {
    for (const auto& [path, bytes] : copy->files) {
      if (!WriteStringToFile(disk_of(disk), bytes, path, true).ok()) {
        return 1;
      }
    }
  }
  return 0;
}

void chaos_copy_drop(chaos_copy* copy) { delete copy; }

// The process died, the machine lived: its page cache is all there.
void chaos_disk_thaw(void* disk) {
  disk_of(disk)->ResetState();
  disk_of(disk)->SetFilesystemActive(true);
}
}
