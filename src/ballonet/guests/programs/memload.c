/* What programs of a guest want of its memory, played from a schedule, and what they got.
 *
 *   memload SCHEDULE REPORT [DISK]
 *
 * SCHEDULE  a line is in force from its second on, until the next one:
 *               SECOND MIB MIB_PER_S HOT_MIB READS_PER_S
 *           MIB is wanted as memory that only swap could free, taken no faster than MIB_PER_S; of
 *           DISK the first HOT_MIB are read, 16 KiB at a random place, READS_PER_S times a second.
 *           A line with a negative MIB is the end.
 * REPORT    a line a second, key=value, of everything since the beginning.
 *
 * One process keeps the time and is never killed for want of memory; it starts the one that uses the
 * memory, and starts it again when that was killed.  Memory is a file without a name: a page fault
 * of User-Mode Linux costs thirty times what writing a page costs.  Each page has its number in it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, READ = 16384, LINES = 1024, CHUNK = 16 };

struct line {
    double second, mib, mib_per_s, hot_mib, reads_per_s;
};

/* Outlives whoever is killed. */
struct shared {
    volatile double begun;
    volatile uint64_t has_mib, wants_mib, kills, bad, reads, reads_due, late_ms;
    volatile int is_over;
};

static struct line lines[LINES];
static int line_count;
static struct shared *shared;
static uint64_t dice = 88172645463325252ull;

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static uint64_t throw(void)
{
    dice ^= dice << 13;
    dice ^= dice >> 7;
    return dice ^= dice << 17;
}

static void rest(double seconds)
{
    struct timespec length = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    if (seconds > 0)
        nanosleep(&length, NULL);
}

static void say(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        perror(path);
    close(fd);
}

/* Half a page cannot be compressed, so that swap to compressed memory would be no way out. */
static void fill(uint64_t *page, uint64_t number)
{
    uint64_t noise = number * 0x9E3779B97F4A7C15ull + 1;
    for (int i = 0; i < PAGE / 16; i++) {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        page[i] = noise ^= noise << 17;
    }
    for (int i = PAGE / 16; i < PAGE / 8; i++)
        page[i] = number;
}

/* One page of those that are there, wherever. */
static void check(int memory, uint64_t pages)
{
    uint64_t number = throw() % pages, found = 0;
    if (pread(memory, &found, sizeof found, number * PAGE + PAGE - sizeof found) != sizeof found ||
        found != number)
        shared->bad++;
}

/* Takes a part of what is wanted, for no longer than a tenth of a second. */
static uint64_t grow(int memory, uint64_t pages, uint64_t more)
{
    static uint64_t chunk[CHUNK * PAGE / 8];
    double end = now() + 0.1;
    while (more && now() < end) {
        uint64_t part = more < CHUNK ? more : CHUNK;
        for (uint64_t i = 0; i < part; i++)
            fill(chunk + i * PAGE / 8, pages + i);
        if (pwrite(memory, chunk, part * PAGE, pages * PAGE) != (ssize_t)(part * PAGE)) {
            shared->bad++;
            break;
        }
        pages += part;
        more -= part;
    }
    return pages;
}

static void work(const char *disk)
{
    int memory = memfd_create("load", 0), at = -1;
    int fd = disk ? open(disk, O_RDONLY) : -1;
    uint64_t pages = 0;
    double last = now(), credit = 0, owed = 0;
    static char buffer[READ];
    if (fd >= 0)
        posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    for (;;) {
        double begun = now(), passed = begun - last;
        last = begun;
        while (at + 1 < line_count && lines[at + 1].second <= begun - shared->begun)
            at++;
        struct line *line = &lines[at < 0 ? 0 : at];
        if (line->mib < 0) {
            shared->is_over = 1;
            _exit(0);
        }
        uint64_t goal = (uint64_t)(line->mib * 256);
        shared->wants_mib = goal / 256;
        if (goal < pages) {
            if (ftruncate(memory, goal * PAGE))
                shared->bad++;
            pages = goal;
            credit = 0;
        } else if (goal > pages) {
            credit += line->mib_per_s * 256 * (passed < 0.5 ? passed : 0.5);
            uint64_t more = goal - pages < credit ? goal - pages : (uint64_t)credit;
            uint64_t before = pages;
            pages = grow(memory, pages, more);
            credit -= pages - before;
            if (credit > line->mib_per_s * 128)
                shared->late_ms += (uint64_t)(passed * 1000);
        }
        shared->has_mib = pages / 256;
        for (int i = 0; pages && i < 20; i++)
            check(memory, pages);
        owed += line->reads_per_s * passed;
        if (owed > line->reads_per_s)
            owed = line->reads_per_s; /* what is a second late is lost */
        for (double end = now() + 0.05; owed >= 1 && fd >= 0 && now() < end; owed--) {
            uint64_t place = throw() % (uint64_t)(line->hot_mib * 64) * READ;
            shared->reads += pread(fd, buffer, READ, place) == READ;
        }
        rest(0.02);
    }
}

static pid_t begin(const char *disk)
{
    pid_t child = fork();
    if (!child) {
        munlockall();
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        say("/proc/self/oom_score_adj", "1000");
        dice += shared->kills * 7919;
        work(disk);
    }
    return child;
}

static uint64_t field(const char *path, const char *key)
{
    static char text[16384];
    int fd = open(path, O_RDONLY);
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    text[size > 0 ? size : 0] = 0;
    for (char *place = text; (place = strstr(place, key)); place++) {
        char after = place[strlen(key)];
        if ((place == text || place[-1] == '\n') && (after == ' ' || after == ':'))
            return strtoull(place + strlen(key) + 1, NULL, 10);
    }
    return 0;
}

static void report(int fd)
{
    char text[512];
    int size = snprintf(
        text, sizeof text,
        "at=%.2f wants=%lu has=%lu kills=%lu bad=%lu reads=%lu late_ms=%lu stalls=%lu majfault=%lu "
        "swapped_in=%lu oom_kill=%lu over=%d\n",
        now() - shared->begun, shared->wants_mib, shared->has_mib, shared->kills, shared->bad,
        shared->reads, shared->late_ms,
        field("/proc/vmstat", "allocstall_normal") + field("/proc/vmstat", "allocstall_movable"),
        field("/proc/vmstat", "pgmajfault"), field("/proc/vmstat", "pswpin"),
        field("/proc/vmstat", "oom_kill"), shared->is_over);
    if (write(fd, text, size) < 0)
        perror("report");
}

static void read_schedule(const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file) {
        perror(path);
        exit(1);
    }
    struct line *line = lines;
    while (line_count < LINES && fscanf(file, "%lf %lf %lf %lf %lf", &line->second, &line->mib,
                                        &line->mib_per_s, &line->hot_mib, &line->reads_per_s) == 5)
        line = &lines[++line_count];
    fclose(file);
}

int main(int count, char **words)
{
    if (count < 3) {
        fprintf(stderr, "memload SCHEDULE REPORT [DISK]\n");
        return 2;
    }
    read_schedule(words[1]);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int out = open(words[2], O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (out < 0 || shared == MAP_FAILED) {
        perror(words[2]);
        return 1;
    }
    mlockall(MCL_CURRENT);
    say("/proc/self/oom_score_adj", "-1000");
    shared->begun = now();
    pid_t child = 0;
    for (double due = shared->begun;; due += 1) {
        int status;
        if (child && waitpid(child, &status, WNOHANG) == child) {
            child = 0;
            if (WIFSIGNALED(status)) {
                shared->kills++;
                shared->has_mib = 0;
            }
        }
        if (!child && !shared->is_over)
            child = begin(count > 3 ? words[3] : NULL);
        report(out);
        if (!child && shared->is_over)
            return 0;
        if (due < now() - 1)
            due = now();
        rest(due + 1 - now());
    }
}
