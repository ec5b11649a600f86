/*
 * The yardstick: a vhost-user balloon device that does as little as one can, for measurements only.
 *
 *     balloon_device answer|defer SOCKET
 *
 * answer: reads each message, answers it, and drops nothing.
 * defer:  answers first; a map of bytes says which pages wait, and they are dropped in steps of at
 *         most 2 MiB when the driver has been silent for a millisecond, as ballonet does.
 *
 * It trusts its front-end and its driver in everything: bounds, loops, sizes.  It offers what
 * Linux's driver needs for both (MUST_TELL_HOST, EVENT_IDX), knows the messages of User-Mode Linux,
 * and serves one connection.  A number on stdin is a new target in pages, and `reached` is said when
 * the driver says that it is there; an empty line is answered with a line of messages, pages given,
 * and processor time in microseconds.
 * Source: VIRTIO 1.4 2.7, 5.5; QEMU docs/interop/vhost-user.rst.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { INFLATE, DEFLATE, QUEUES = 5, REGIONS = 8, PAGE_SHIFT = 12, STEP_PAGES = 512 };
enum { QUIET_NS = 1000000, SPIN_NS = 500000 };
enum { F_NEXT = 1, F_WRITE = 2, F_INDIRECT = 4 };
#define EVENT_IDX (1ull << 29)
#define PROTOCOL_FEATURES (1ull << 30)
#define OFFERED (1ull << 32 | EVENT_IDX | PROTOCOL_FEATURES | 1) /* VERSION_1, MUST_TELL_HOST */
#define PROTOCOL (1ull | 1ull << 3 | 1ull << 5 | 1ull << 9) /* MQ REPLY_ACK BACKEND_REQ CONFIG */

struct header { uint32_t request, flags, size; };
struct descriptor { uint64_t addr; uint32_t length; uint16_t flags, next; };
struct used { uint32_t id, length; };
struct region { uint64_t gpa, size, uva, offset; uint8_t *map; int fd; };
struct queue {
    uint64_t desc_uva, avail_uva, used_uva;
    struct descriptor *desc;
    volatile uint16_t *avail, *used;
    uint32_t size;
    uint16_t next;
    int kick, call;
    bool enabled;
};

static struct region regions[REGIONS];
static unsigned region_count;
static struct queue queues[QUEUES];
static uint64_t features, protocol;
static int loop, front_end, channel = -1;
static uint32_t config[4]; /* num_pages, actual, free_page_hint_cmd_id, poison_val */
static bool defers;
static uint8_t *waits; /* a byte for each page of the guest */
static uint64_t page_count, waiting, lowest, heard_ns, message_count, pages_given;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static uint8_t *by_gpa(uint64_t gpa)
{
    for (unsigned i = 0; i < region_count; i++)
        if (gpa - regions[i].gpa < regions[i].size)
            return regions[i].map + regions[i].offset + (gpa - regions[i].gpa);
    return NULL;
}

static uint8_t *by_uva(uint64_t uva)
{
    for (unsigned i = 0; i < region_count; i++)
        if (uva - regions[i].uva < regions[i].size)
            return regions[i].map + regions[i].offset + (uva - regions[i].uva);
    return NULL;
}

static void drop(uint64_t first, uint64_t count)
{
    uint64_t gpa = first << PAGE_SHIFT;
    for (unsigned i = 0; i < region_count; i++)
        if (gpa - regions[i].gpa < regions[i].size)
            fallocate(regions[i].fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      regions[i].offset + gpa - regions[i].gpa, count << PAGE_SHIFT);
}

static void drop_lowest(void)
{
    while (lowest < page_count && !waits[lowest])
        lowest++;
    uint64_t border = (lowest / STEP_PAGES + 1) * STEP_PAGES, end = lowest;
    while (end < page_count && end < border && waits[end])
        end++;
    memset(waits + lowest, 0, end - lowest);
    drop(lowest, end - lowest);
    waiting -= end - lowest;
    lowest = end;
}

static void take(unsigned number, const uint32_t *pfns, unsigned count)
{
    if (number == INFLATE) {
        message_count++;
        pages_given += count;
    }
    if (!defers)
        return;
    heard_ns = now_ns();
    for (unsigned i = 0; i < count; i++) {
        uint8_t *page = waits + pfns[i];
        if (pfns[i] >= page_count || *page == (number == INFLATE))
            continue;
        *page = number == INFLATE;
        waiting += number == INFLATE ? 1 : -1;
        if (pfns[i] < lowest)
            lowest = pfns[i];
    }
}

static void read_chain(unsigned number, uint16_t head)
{
    static uint32_t pfns[1 << 16];
    struct descriptor *table = queues[number].desc, one;
    unsigned bytes = 0;
    for (uint16_t i = head;; i = one.next) {
        one = table[i];
        if (one.flags & F_INDIRECT) {
            table = (struct descriptor *)by_gpa(one.addr);
            one.next = 0;
            continue;
        }
        if (!(one.flags & F_WRITE)) {
            memcpy((uint8_t *)pfns + bytes, by_gpa(one.addr), one.length);
            bytes += one.length;
        }
        if (!(one.flags & F_NEXT))
            break;
    }
    take(number, pfns, bytes / 4);
}

static void answer(struct queue *queue, uint16_t head)
{
    uint16_t index = queue->used[1];
    struct used *entry = (struct used *)(queue->used + 2) + index % queue->size;
    *entry = (struct used){head, 0};
    atomic_thread_fence(memory_order_seq_cst);
    queue->used[1] = index + 1;
    atomic_thread_fence(memory_order_seq_cst);
    bool wanted = features & EVENT_IDX ? queue->avail[2 + queue->size] == index
                                       : !(queue->avail[0] & 1);
    uint64_t one = 1;
    if (wanted && queue->call >= 0 && write(queue->call, &one, sizeof one) < 0)
        fail("call");
}

static bool serve(unsigned number)
{
    struct queue *queue = &queues[number];
    bool served = false;
    if (!queue->enabled || !queue->desc || queue->kick < 0)
        return false;
    for (;;) {
        uint16_t index = queue->avail[1];
        atomic_thread_fence(memory_order_seq_cst);
        for (; queue->next != index; queue->next++, served = true) {
            uint16_t head = queue->avail[2 + queue->next % queue->size];
            read_chain(number, head);
            answer(queue, head);
        }
        if (features & EVENT_IDX)
            queue->used[2 + 4 * queue->size] = queue->next;
        atomic_thread_fence(memory_order_seq_cst);
        if (queue->avail[1] == queue->next)
            return served;
    }
}

static void find_ring(struct queue *queue)
{
    queue->desc = (struct descriptor *)by_uva(queue->desc_uva);
    queue->avail = (uint16_t *)by_uva(queue->avail_uva);
    queue->used = (uint16_t *)by_uva(queue->used_uva);
}

static void map_memory(const uint8_t *payload, const int *fds)
{
    memcpy(&region_count, payload, 4);
    page_count = 0;
    for (unsigned i = 0; i < region_count; i++) {
        struct region *one = &regions[i];
        memcpy(one, payload + 8 + 32 * i, 32);
        one->fd = fds[i];
        one->map = mmap(NULL, one->offset + one->size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0);
        if (one->map == MAP_FAILED)
            fail("mmap");
        uint64_t end = (one->gpa + one->size) >> PAGE_SHIFT;
        page_count = end > page_count ? end : page_count;
    }
    free(waits);
    waits = calloc(page_count, 1);
    waiting = 0;
    lowest = page_count;
    for (unsigned i = 0; i < QUEUES; i++)
        find_ring(&queues[i]);
}

static void watch(int fd, uint32_t number, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u32 = number};
    if (epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event))
        fail("epoll_ctl");
}

static void reply(uint32_t request, const void *payload, uint32_t size)
{
    uint8_t message[sizeof(struct header) + 512];
    struct header header = {request, 5, size};
    memcpy(message, &header, sizeof header);
    memcpy(message + sizeof header, payload, size);
    if (send(front_end, message, sizeof header + size, 0) < 0)
        fail("reply");
}

static void obey(const struct header *header, uint8_t *payload, const int *fds, bool has_fd)
{
    uint64_t word = 0, zero = 0, queue_count = QUEUES, offer;
    uint32_t pair[2] = {0, 0};
    bool has_replied = false;
    memcpy(&word, payload, 8);
    memcpy(pair, payload, 8);
    switch (header->request) {
    case 1: /* GET_FEATURES */
        offer = OFFERED;
        reply(1, &offer, 8), has_replied = true;
        break;
    case 2: /* SET_FEATURES */
        features = word;
        break;
    case 5: /* SET_MEM_TABLE */
        map_memory(payload, fds);
        break;
    case 8: /* SET_VRING_NUM */
        queues[pair[0]].size = pair[1];
        break;
    case 9: { /* SET_VRING_ADDR */
        struct queue *queue = &queues[pair[0]];
        memcpy(&queue->desc_uva, payload + 8, 8);
        memcpy(&queue->used_uva, payload + 16, 8);
        memcpy(&queue->avail_uva, payload + 24, 8);
        find_ring(queue);
        break;
    }
    case 10: /* SET_VRING_BASE */
        queues[pair[0]].next = pair[1];
        break;
    case 11: /* GET_VRING_BASE */
        pair[1] = queues[pair[0]].next;
        queues[pair[0]].kick = -1;
        reply(11, pair, 8), has_replied = true;
        break;
    case 12: /* SET_VRING_KICK */
        queues[word & 0xFF].kick = fds[0];
        queues[word & 0xFF].enabled |= !(features & PROTOCOL_FEATURES);
        watch(fds[0], word & 0xFF, EPOLLIN | EPOLLET);
        break;
    case 13: /* SET_VRING_CALL */
        queues[word & 0xFF].call = has_fd ? fds[0] : -1;
        break;
    case 15: /* GET_PROTOCOL_FEATURES */
        offer = PROTOCOL;
        reply(15, &offer, 8), has_replied = true;
        break;
    case 16: /* SET_PROTOCOL_FEATURES */
        protocol = word;
        break;
    case 17: /* GET_QUEUE_NUM */
        reply(17, &queue_count, 8), has_replied = true;
        break;
    case 18: /* SET_VRING_ENABLE */
        queues[pair[0]].enabled = pair[1];
        serve(pair[0]);
        break;
    case 21: /* SET_BACKEND_REQ_FD */
        channel = fds[0];
        break;
    case 24: /* GET_CONFIG */
        memset(payload + 12, 0, pair[1]);
        if (pair[0] < sizeof config)
            memcpy(payload + 12, (uint8_t *)config + pair[0],
                   pair[1] < sizeof config - pair[0] ? pair[1] : sizeof config - pair[0]);
        reply(24, payload, header->size), has_replied = true;
        break;
    case 25: /* SET_CONFIG */
        if (pair[0] + pair[1] <= sizeof config)
            memcpy((uint8_t *)config + pair[0], payload + 12, pair[1]);
        if (config[0] == config[1])
            puts("reached");
        break;
    }
    if (header->flags & 8 && !has_replied)
        reply(header->request, &zero, 8);
}

static bool read_message(void)
{
    uint8_t payload[1 << 14], control[CMSG_SPACE(sizeof(int) * REGIONS)];
    int fds[REGIONS];
    struct header header;
    struct iovec piece = {&header, sizeof header};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control};
    if (recvmsg(front_end, &message, MSG_CMSG_CLOEXEC | MSG_WAITALL) <= 0)
        return false;
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    if (rights)
        memcpy(fds, CMSG_DATA(rights), rights->cmsg_len - CMSG_LEN(0));
    if (header.size && recv(front_end, payload, header.size, MSG_WAITALL) <= 0)
        return false;
    obey(&header, payload, fds, rights != NULL);
    return true;
}

static void tell_target(uint32_t pages)
{
    struct header change = {2, 1, 0}; /* BACKEND_CONFIG_CHANGE_MSG */
    config[0] = pages;
    if (channel >= 0 && send(channel, &change, sizeof change, 0) < 0)
        fail("channel");
}

static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    if (sock < 0 || bind(sock, (struct sockaddr *)&address, sizeof address) || listen(sock, 1))
        fail(path);
    return sock;
}

static void print_use(void)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    printf("%lu %lu %ld\n", message_count, pages_given,
           (use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000l + use.ru_utime.tv_usec +
               use.ru_stime.tv_usec);
}

/* Lines on stdin: a number is a new target; an empty line asks for what was used so far. */
static bool read_line(void)
{
    char line[64];
    ssize_t size = read(0, line, sizeof line - 1);
    if (size <= 0)
        return false;
    line[size] = 0;
    if (line[0] == '\n')
        print_use();
    else
        tell_target(strtoul(line, NULL, 10));
    return true;
}

int main(int count, char **words)
{
    enum { FRONT_END = 100, LINES };
    uint64_t until_ns = 0;
    if (count != 3)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    defers = !strcmp(words[1], "defer");
    for (unsigned i = 0; i < QUEUES; i++)
        queues[i].kick = queues[i].call = -1;
    loop = epoll_create1(EPOLL_CLOEXEC);
    front_end = accept4(listen_at(words[2]), NULL, NULL, SOCK_CLOEXEC);
    watch(front_end, FRONT_END, EPOLLIN);
    watch(0, LINES, EPOLLIN);
    for (;;) {
        struct epoll_event events[8];
        uint64_t now = now_ns();
        bool drops = waiting && now >= heard_ns + QUIET_NS;
        int wait_ms = drops || now < until_ns ? 0 : waiting ? 1 : -1;
        if (drops)
            drop_lowest();
        int ready = epoll_wait(loop, events, 8, wait_ms);
        for (int i = 0; i < ready; i++) {
            uint32_t number = events[i].data.u32;
            if (number == LINES ? !read_line() : number == FRONT_END && !read_message())
                return 0;
            if (number < QUEUES && serve(number))
                until_ns = now_ns() + SPIN_NS;
        }
    }
}
