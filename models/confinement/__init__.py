"""What a process gives up for good before it opens what strangers sent: one layer a file, put together in `layers`.

| layer          | what is then out of reach                                                    |
| -------------- | ---------------------------------------------------------------------------- |
| `network`      | the machine's network devices and abstract sockets; best effort              |
| `limits`       | memory, processor time, file sizes, open files, processes beyond what is set |
| `capabilities` | what the kernel lets a superuser do                                          |
| `landlock`     | every file but those named, TCP, signals to others                           |
| `seccomp`      | every system call but those that computing and its files need                |

Nothing here imports torch: the API's process asks too which layers there are.
"""
